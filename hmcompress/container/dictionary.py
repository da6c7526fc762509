"""The text that the index of format version 1 is squeezed against. Frozen: a changed byte is another format version."""

# Likely text, the likeliest last. A compressed PINN is a few kB, so the keys alone would be a tenth of its index.
DICTIONARY = (
    b'"untouched","kept lossless: nan or inf","bfloat16","float16","float64","int64","bool",'
    b'"lossless","raw","spectral","max","fast","weights","match","keep":true,"exclude":["include":["drop":["optimizer*"]'
    b'"legacy pickle","torchscript","shards","safetensors","zip",".safetensors",".pth",".ckpt",".bin",'
    b'"state_dict","model_state_dict","optimizer_state_dict","epoch","module.","model.","encoder.","decoder.","layers.",'
    b'"embeddings.","attention.","query.","key.","value.","conv","norm","linear","fc1.weight","running_mean",'
    b'"num_batches_tracked","layer.0.weight","linears.0.weight","net.0.weight","net.2.weight","net.4.weight",'
    b'"net.6.weight","net.8.weight","net.0.bias","layers.0.weight","layers.0.bias","0.weight","0.bias",'
    b'"network":{"mlp":{"activation":"tanh"}},"calibration":{"domain":{"x":[-1.0,1.0],"t":[0.0,1.0]},"samples":4096,'
    b'"held_out":4096,"seed":0,"derivatives":1},"ntk":{"tol":0.1,"samples":256},"tol":0.001,"effort":"max",'
    b'"network":{"tol":0.01,"error":0.0099,"calibration_error":0.009,"widened_error":0.01,"noisy_error":0.01,'
    b'"derivative_errors":[],"reference":{"before":,"after":},"alignment":,"min_eigenvalue":,"trace_ratio":,'
    b'"rate_limit_bytes":,"layers":[{"name":"","local_error":,"propagated_error":,"growth":,"zero_columns":,"dead_rows":}'
    b'{"settings":{"metric":"outputs","tol":0.0001,"norm":"fro","source":{"name":"model.pt","kind":"torch","bytes":1,'
    b'"digest":"sha256:0123456789abcdef"},"names":["weight",0,"bias",0,],"dtypes":"float32","shapes":[[128,128],'
    b'"packed":[1,3,5,7],"ties":[[],"layers":{"tensors":[0,2,4,6,8],"tol":0.01,"norm":"fro","method":"hmatrix",'
    b'"bytes":[],"crc32":[],"error":[9.9,e-05],"max_abs_error":[0.0001,"zero":0,"low_rank":0,"quantized":1,"hybrid":0,'
    b'"max_rank":0},"decoded_bytes":,"left_behind":[],"notes":[],"nest":null}'
)
