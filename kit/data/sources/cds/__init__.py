"""The Copernicus data stores."""
