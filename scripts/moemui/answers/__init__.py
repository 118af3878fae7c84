"""From tasks to responses, generated and graded by lm_eval."""
