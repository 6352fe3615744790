"""What shares a server: serving engines, image and audio producers, a long prompt, each on GPUs of its own."""
