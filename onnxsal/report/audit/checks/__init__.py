"""The checks of an audit, one file each; a file that is put here is found."""
