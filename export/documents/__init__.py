"""What a reviewer reads beside the model: model card and SBOM."""
