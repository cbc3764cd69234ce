"""What is shown of runs once they have begun: tables, curves, a page; read from their work folders."""
