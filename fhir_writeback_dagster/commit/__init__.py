"""From approved candidates to resources in the EHR, once in effect."""
