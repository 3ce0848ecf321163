"""What benchmark programs print: benchmark_model's and onnxruntime_perf_test's outputs as published with figures
of real devices; executor_runner's put together from the format strings of its source."""

BENCHMARK_MODEL = """\
STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, \
Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""
NEWER_BENCHMARK_MODEL = """\
I tflite  : count=3 first=260000 curr=187000 min=187000 max=260000 avg=211669 std=30000 \
p5=187000 median=188000 p95=260000
I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 \
p5=140545 median=141253 p95=187533
I tflite  : Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 211669, \
Inference (avg): 145528
"""
PERF_TEST = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.0508382 s
First inference time cost: 20 ms
Total inference time cost: 1.9918 s
Total inference requests: 100
Average inference time cost: 19.918 ms
Total inference run time: 1.99202 s
Number of inferences per second: 50.2002
Avg CPU usage: 12 %
Peak working set size: 109531136 bytes
Avg CPU usage:12
Peak working set size:109531136
Runs:100
Min Latency: 0.0197812 s
Max Latency: 0.0202704 s
P50 Latency: 0.0199047 s
P90 Latency: 0.0200251 s
P95 Latency: 0.0201534 s
P99 Latency: 0.0202704 s
P999 Latency: 0.0202704 s
"""
EXECUTOR_RUNNER = """\
I 00:00:00.000612 executorch:executor_runner.cpp:300] Model loaded in 1.500000 ms.
I 00:00:00.010612 executorch:executor_runner.cpp:400] Iteration 1 of 4: 9.000000 ms
I 00:00:00.020612 executorch:executor_runner.cpp:400] Iteration 2 of 4: 4.000000 ms
I 00:00:00.030612 executorch:executor_runner.cpp:400] Iteration 3 of 4: 5.000000 ms
I 00:00:00.040612 executorch:executor_runner.cpp:400] Iteration 4 of 4: 6.000000 ms
I 00:00:00.050612 executorch:executor_runner.cpp:410] Model executed successfully 4 time(s) in 24.000000 ms.
I 00:00:00.050700 executorch:executor_runner.cpp:420] 1 outputs:
"""
