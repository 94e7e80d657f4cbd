"""The attack: everything at once against the daemon, wrap and the API, judged by an oracle that stands outside."""
