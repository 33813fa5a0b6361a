"""What the services of the control plane share: HTTP conventions, microversions, policy, quota, database."""
