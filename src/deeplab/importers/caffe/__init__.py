"""Caffe's weights of v1 and v2, without Caffe."""
