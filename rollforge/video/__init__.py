"""Video files and pictures of videos. No torch here."""
