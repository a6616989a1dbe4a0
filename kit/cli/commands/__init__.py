"""One function a command: settle its settings, call the room that does the work, say how to show it."""
