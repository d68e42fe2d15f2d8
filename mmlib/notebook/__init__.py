"""What a notebook needs beside the science: parameters, claims, figures, sliders."""
