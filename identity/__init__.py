"""Users, projects, roles, tokens, catalog and S3 keys: the Identity API, version 3."""
