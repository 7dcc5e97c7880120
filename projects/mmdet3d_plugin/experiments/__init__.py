"""What only experiments need: configs name it in `custom_imports`, nothing else imports it."""
