"""Context heads, the decoder and the classifier: what stands between features and logits."""
