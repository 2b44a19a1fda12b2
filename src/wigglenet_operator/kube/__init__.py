"""The API server: the only importer of kopf and kubernetes_asyncio. Kopf watches, kubernetes_asyncio does all other talk."""
