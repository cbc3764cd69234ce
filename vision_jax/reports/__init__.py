"""What is shown about runs once they have begun, from their work folders: tables, curves, a page."""
