"""Our image and manifests on a cluster with real kubelets, container runtime and kube-proxy."""
