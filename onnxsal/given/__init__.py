"""What users give to be explained (pictures, arrays, texts, tables), as the model is fed, with what its maps are shown beside."""
