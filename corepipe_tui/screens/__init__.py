"""The screens, in the order a person meets them: processes, regions, dump, result; and the help over any of them."""
