"""How commands get their options: declared once as dataclasses (`declare`), read from the command line (`parser`,
`command`) or a TOML file (`job_file`), checked whatever they come from. Nothing of a command's own work is in here, and
no command is handed an `argparse.Namespace`."""
