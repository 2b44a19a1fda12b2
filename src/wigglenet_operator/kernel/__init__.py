"""This node: the only importer of pyroute2, sockets and files; one module for each mechanism, all behind `ports.KeyedTable`."""
