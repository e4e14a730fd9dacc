"""A million photos: shards of them, a worker that may be killed at any time, and the engines that run many workers."""
