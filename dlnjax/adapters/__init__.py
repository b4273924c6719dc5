"""This geometry for the algorithms of other libraries. Each module needs the library that it is named after."""
