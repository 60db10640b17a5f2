"""A server with OpenAI's protocol and a chat page."""
