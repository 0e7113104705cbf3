"""The values all rooms share: frozen, without logic beyond checks."""
