"""What keeps the indexes of an installation: records, stores, and what is known beside them.

Two kinds of home: a `directory`, and one PostgreSQL that many replicas share (`postgres`).

Invariants: an index appears and disappears whole, for every process at once; of one name and owner
there is one, and a later making of the name is told apart by its `Place.uid`.
"""
