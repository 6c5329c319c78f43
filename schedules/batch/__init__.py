"""Throughput schedules: large batches, weights streamed layer by layer."""

from schedules.batch.accelerate import Accelerate
from schedules.batch.cgopipe import CGOPipe
from schedules.batch.fastdecode import FastDecode
from schedules.batch.flexgen import FlexGen
from schedules.batch.flexgen_cpu import FlexGenCPU
from schedules.batch.fusionai import FusionAI
from schedules.batch.gpu_only import GPUOnly
from schedules.batch.zero_inference import ZeROInference

BUILT_IN = (
    CGOPipe,
    FastDecode,
    FlexGen,
    FlexGenCPU,
    ZeROInference,
    Accelerate,
    FusionAI,
    GPUOnly,
)
