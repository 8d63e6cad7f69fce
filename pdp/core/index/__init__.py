"""Which of many sets of conditions can hold for an action, without a look at each; imports nothing of the project."""
