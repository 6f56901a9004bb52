"""Teachers: how they predict, are brought to the student's tokens, and become one."""
