"""Stage 2 (section 2.2 of the paper): from slice predictions to the class of the patient."""
