# The two commands of the README, for those who type make.
.PHONY: up test
up:
	./holdfast up
test:
	./holdfast test
