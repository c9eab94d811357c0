"""How commands get their options: declared once as dataclasses (`declare`), read from the command line (`parser`,
`command`) or a TOML file (`job_file`), checked in the same way wherever they come from. Nothing of a command's own work
is in here, and no command is given an `argparse.Namespace`."""
