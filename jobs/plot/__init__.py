"""`masklake plot`: a lake in one picture. What is counted (`figures`), and how it is drawn (`panels`)."""
