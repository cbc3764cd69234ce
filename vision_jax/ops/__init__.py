"""Mathematics as plain functions of arrays; modules, tasks and evaluations build on it."""
