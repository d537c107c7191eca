"""What `init` copies: files that are somebody's to change, which import the package by its name; nothing else imports them."""
