"""What single skills do: held from one start, measured, drawn and filmed."""
