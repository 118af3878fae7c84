"""Every table of a study: its columns, their dtypes, units and meanings. One module a stage: none reads another's."""
