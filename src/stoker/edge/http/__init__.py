"""The API over HTTP. Words of the vendor (machine, topic) stay in here."""
