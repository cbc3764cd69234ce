"""Mathematics as plain functions of arrays, on which modules, tasks and evaluations build."""
