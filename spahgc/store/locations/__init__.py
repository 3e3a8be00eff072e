"""Where a store lies, seen as keys and bytes: a folder, a bucket, a web server, an archive."""
