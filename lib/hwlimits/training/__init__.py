"""TensorFlow lives here and nowhere else; `keras.py` is the one door to it."""
