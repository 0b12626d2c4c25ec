"""Trains ResNet-50 with each kind of residual join on ImageNet, CIFAR-10 or a folder of images."""
