"""What every other part uses: errors, files, memory, progress, text, plots."""
