# The commands of the README, for those who type make.
.PHONY: up test bench
up:
	./holdfast up
test:
	./holdfast test
bench:
	./holdfast bench
