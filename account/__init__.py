"""Account databases and the account service."""
