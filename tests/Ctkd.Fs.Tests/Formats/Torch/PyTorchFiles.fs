/// The script that writes weights as people have them, by PyTorch: every prefix with every wrapper, and with every format.
module Ctkd.Fs.Tests.PyTorchFiles

/// Arguments: a folder with plain.pt, the weights. Prints a line for each file: its name, its path for `ctkd`, the role to
/// load it in ("any", "teacher", "extra" with tensors that the model lacks, or "refused"), its prefix, wrapper and format.
let writing: string =
    """
import argparse, collections, datetime, functools, io, json, numpy, os, pathlib, pickle, struct, sys, tarfile, torch, zipfile

folder = sys.argv[1]
plain = torch.load(folder + "/plain.pt")
names = list(plain)
other = collections.OrderedDict((k, v + 1 if v.dtype.is_floating_point else v) for k, v in plain.items())
counts = collections.Counter()

def prefixed(prefix):
    return lambda d: collections.OrderedDict((prefix + k, v) for k, v in d.items())

def within(part):
    def put(k):
        first, rest = k.split(".", 1)
        return f"{first}.{part}.{rest}"
    return lambda d: collections.OrderedDict((put(k), v) for k, v in d.items())

def mixed(d):
    return collections.OrderedDict((("module." if i % 2 else "") + k, v) for i, (k, v) in enumerate(d.items()))

def averaged(d):
    return collections.OrderedDict([("n_averaged", torch.tensor(7)), *prefixed("module.")(d).items()])

prefixes = {
    "bare": dict,
    "orig_mod": prefixed("_orig_mod."),
    "module": prefixed("module."),
    "module.orig_mod": prefixed("module._orig_mod."),
    "orig_mod.module": prefixed("_orig_mod.module."),
    "mixed": mixed,
    "inner-orig_mod": within("_orig_mod"),
    "inner-module": within("module"),
    "inner-fsdp": lambda d: prefixed("_fsdp_wrapped_module.")(within("_fsdp_wrapped_module")(d)),
    "fabric": prefixed("_forward_module.module."),
    "backbone": prefixed("backbone."),
    "net": prefixed("net."),
    "model.orig_mod": prefixed("model._orig_mod."),
    "student": prefixed("student."),
    "module.encoder": prefixed("module.encoder."),
    "averaged": averaged,
}

class Box(torch.nn.Module):
    pass

def boxed(d):
    root = Box()
    for name, value in d.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, Box())
            at = getattr(at, part)
        if last in ("running_mean", "running_var", "num_batches_tracked", "n_averaged"):
            at.register_buffer(last, value)
        else:
            at.register_parameter(last, torch.nn.Parameter(value))
    root.register_buffer("scratch", torch.zeros(3), persistent=False)
    return root

class Config(dict):
    def __init__(self, **kw):
        super().__init__(**kw)
        self.__dict__ = self

def optimizer():
    layer = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.zeros(1, 3)).sum().backward()
    adam.step()
    return adam

adam = optimizer()
options = argparse.Namespace(lr=0.1, path=pathlib.PosixPath("/a/b"), when=datetime.datetime(2020, 1, 2),
                             device=torch.device("cpu"), dtype=torch.float16, size=torch.Size([2]), layers=[1, 2],
                             call=functools.partial(int, base=2), inner=argparse.Namespace(x=numpy.float32(1)))
strange = {
    "complex64": torch.zeros(2, dtype=torch.complex64), "sparse": torch.eye(3).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.ones(4), 0.5, 1, torch.qint8), "flag": torch.tensor([True]),
    "half": torch.zeros(3, dtype=torch.float16), "uint16": numpy.zeros(3, dtype=numpy.uint16)}

# A wrapper: its contents, the role and the key to load it with.
wrappers = {
    "alone": lambda d: (d, "any", ""),
    "state_dict": lambda d: ({"epoch": 3, "state_dict": d, "optimizer": adam.state_dict()}, "any", ""),
    "namespace": lambda d: ({"opt": options, "model": d, "accuracy": numpy.float64(1.5)}, "any", ""),
    "objects": lambda d: ({"net": d, "optimizer": adam, "counts": collections.Counter("abc"),
                           "scheduler": torch.optim.lr_scheduler.StepLR(adam, 3).state_dict(),
                           "cfg": Config(lr=1, sub=Config(y=2)), "default": collections.defaultdict(list, a=[1])}, "any", ""),
    "teacher": lambda d: ({"teacher": d}, "any", ""),
    "both": lambda d: ({"student": prefixes["module"](other), "teacher": d}, "teacher", ""),
    "ema": lambda d: ({"state_dict_ema": other, "state_dict": d}, "any", ""),
    "list": lambda d: ([d, 3], "any", ""),
    "tuple": lambda d: ((7, {"model": d}), "any", ""),
    "key": lambda d: ({"first": {"weights": d}, "second": {"weights": other}}, "any", "first.weights"),
    "strange": lambda d: ({"model": {**d, **{"zz." + k: v for k, v in strange.items()}}}, "extra", ""),
    "beside": lambda d: ({"model": d, "buffers": strange}, "any", ""),
    "numpy": lambda d: ({"model": {k: v.numpy() for k, v in d.items()}}, "any", ""),
    "parameters": lambda d: ({k: torch.nn.Parameter(v, requires_grad=False) for k, v in d.items()}, "any", ""),
    "strided": lambda d: ({k: torch.stack([v, v], -1)[..., 1] for k, v in d.items()}, "any", ""),
    "whole": lambda d: (boxed(d), "any", ""),
    "lightning": lambda d: ({"state_dict": prefixed("model.")(d), "hyper_parameters": Config(lr=0.1), "callbacks": {}}, "any", ""),
}

def save(x, path, **options):
    torch.save(x, path, **options)

def rezip(x, path, method, **entry):
    save(x, path + ".tmp")
    with zipfile.ZipFile(path + ".tmp") as source, zipfile.ZipFile(path, "w", method) as target:
        for info in source.infolist():
            with target.open(info.filename, "w", **entry) as out:
                out.write(source.read(info))
    os.remove(path + ".tmp")

def archived(mode):
    def write(x, path):
        for inner in ("weights.pth", "other.pth"):
            save(x if inner == "weights.pth" else other, path + ".tmp")
            if mode == "zip":
                with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as target:
                    target.write(path + ".tmp", "models/r8/" + inner)
        if mode != "zip":
            with tarfile.open(path, mode) as target:
                for inner in ("other.pth", "weights.pth"):
                    save(x if inner == "weights.pth" else other, path + ".tmp")
                    target.add(path + ".tmp", "models/r8/" + inner)
        os.remove(path + ".tmp")
        return ":models/r8/weights.pth"
    return write

def safetensors(x, path):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    header, data = {}, b""
    for k, v in x.items():
        raw = v.contiguous().numpy().tobytes()
        header[k] = {"dtype": kinds[v.dtype], "shape": list(v.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)

formats = {
    "zip": save,
    "legacy": lambda x, p: save(x, p, _use_new_zipfile_serialization=False),
    "legacy4": lambda x, p: save(x, p, _use_new_zipfile_serialization=False, pickle_protocol=4),
    "protocol1": lambda x, p: save(x, p, pickle_protocol=1),
    "protocol3": lambda x, p: save(x, p, pickle_protocol=3),
    "protocol4": lambda x, p: save(x, p, pickle_protocol=4),
    "protocol5": lambda x, p: save(x, p, pickle_protocol=5),
    "deflated": lambda x, p: rezip(x, p, zipfile.ZIP_DEFLATED),
    "zip64": lambda x, p: rezip(x, p, zipfile.ZIP_STORED, force_zip64=True),
    "tar": archived("w"),
    "tar.gz": archived("w:gz"),
    "zip-of-pth": archived("zip"),
}

for i, (p, prefix) in enumerate(prefixes.items()):
    path = f"{folder}/{p}.safetensors"
    safetensors(prefix(plain), path)
    print("\t".join([f"{p} safetensors", path, "any", p, "alone", "safetensors"]))
    for j, (w, wrap) in enumerate(wrappers.items()):
        f = list(formats)[(i + j) % len(formats)]
        contents, role, key = wrap(prefix(plain))
        path = f"{folder}/{p}+{w}+{f}.pth"
        inner = formats[f](contents, path) or ""
        print("\t".join([f"{p} {w} {f}", path + inner + ("#" + key if key else ""), role, p, w, f]))

class Evil:
    def __reduce__(self):
        return os.system, ("true",)

class Packed:
    def __init__(self, d):
        self.d = d
    def __getstate__(self):
        return pickle.dumps(self.d)
    def __setstate__(self, state):
        self.d = pickle.loads(state)
    def state_dict(self):
        return self.d

class Net(torch.nn.Module):
    def forward(self, x):
        return x

def scripted(d, path):
    net = Net()
    for k, v in d.items():
        *parts, last = k.split(".")
        at = net
        for part in parts:
            if not hasattr(at, part):
                at.add_module(part, Net())
            at = getattr(at, part)
        at.register_buffer(last, v)
    torch.jit.trace(net, torch.zeros(1)).save(path)

def very_old(d, path):
    # The tar format of PyTorch before 0.2, as torch.load still reads it.
    def member(tar, name, raw):
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    storages, tensors, main = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(d), storages, 2)
    pickle.dump(len(d), tensors, 2)
    for i, v in enumerate(d.values()):
        kind = torch.FloatStorage if v.dtype == torch.float32 else torch.LongStorage
        pickle.dump((i, "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", v.numel()) + v.contiguous().numpy().tobytes())
        pickle.dump((1000 + i, i, torch.FloatTensor if kind is torch.FloatStorage else torch.LongTensor), tensors, 2)
        n = v.dim()
        tensors.write(struct.pack("<i", n) + b"\0" * 4)
        tensors.write(struct.pack(f"<{n}q", *v.shape) + struct.pack(f"<{n}q", *v.stride()) + struct.pack("<q", 0))
    pickle.dump([], storages, 2)
    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            return next((1000 + i for i, v in enumerate(d.values()) if v is x), None)
    Pickler(main, 2).dump(d)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member(tar, "sys_info", pickle.dumps(dict(protocol_version=1000, little_endian=True)))
        for name, data in [("pickle", main), ("tensors", tensors), ("storages", storages)]:
            member(tar, name, data.getvalue())

def pickled(d, path):
    with open(path, "wb") as f:
        pickle.dump(d, f)

def changed(change, name="fc.weight"):
    return dict(plain, **{name: change(plain[name])})

def archived_alone(path):
    with tarfile.open(path, "w") as target:
        target.add(folder + "/commands.pth", "commands.pth")

sparse = dict(plain, **{"fc.weight": plain["fc.weight"].to_sparse()})
quantised = dict(plain, **{"fc.weight": torch.quantize_per_tensor(plain["fc.weight"], 0.1, 0, torch.qint8)})
complexes = dict(plain, **{"fc.weight": plain["fc.weight"].to(torch.complex64)})

for name, write in {
    "commands": lambda p: save({"model": plain, "evil": Evil()}, p),
    "script": lambda p: scripted(plain, p),
    "very-old": lambda p: very_old(plain, p),
    "packed": lambda p: save(Packed(plain), p),
    "pickle": lambda p: pickled(plain, p),
    "sparse": lambda p: save(sparse, p),
    "quantised": lambda p: save(quantised, p),
    "complex": lambda p: save(prefixed("module.")(complexes), p),
    "compressed": lambda p: save(changed(lambda v: v.to_sparse_csr()), p),
    "meta": lambda p: save(changed(lambda v: v.to("meta")), p),
    "big-endian": lambda p: save({"model": changed(lambda v: v.numpy().astype(">f4"))}, p),
    "long-double": lambda p: save(changed(lambda v: v.numpy().astype("longdouble")), p),
    "complex-array": lambda p: save(changed(lambda v: v.numpy().astype("complex64")), p),
    "archived": archived_alone,
}.items():
    path = f"{folder}/{name}.pth"
    write(path)
    inner = ":commands.pth" if name == "archived" else ""
    print("\t".join([name, path + inner, "refused", "", name, "zip"]))
"""

/// Does what an error's advice says, in the folder of the file; arguments: the file's name, and the code.
let following: string =
    """
import os, pickle, sys, torch
os.chdir(os.path.dirname(sys.argv[1]))
class Box(torch.nn.Module):
    pass
class Packed:
    def __init__(self, d):
        self.d = d
    def __getstate__(self):
        return pickle.dumps(self.d)
    def __setstate__(self, state):
        self.d = pickle.loads(state)
    def state_dict(self):
        return self.d
name, code = os.path.basename(sys.argv[1]), sys.argv[2]
if code.startswith("d["):
    d = torch.load(name)
    d = d.get("model", d)
    exec(code)
    torch.save(d, "weights.pt")
else:
    exec(code)
"""
