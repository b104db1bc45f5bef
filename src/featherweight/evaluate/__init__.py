"""How good, how sure, how dear: metrics, paired statistics, cost.

Works on plain rows and arrays; nothing here opens a model that the caller did not name.
"""
