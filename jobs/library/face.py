"""Masklake: a bucket of images in, a lake of instance masks, boxes and keypoints out."""
