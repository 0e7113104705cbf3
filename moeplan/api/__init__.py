"""The answers of moeplan as values: names and options in, frozen results out."""
