// The training step of `ctkd bench` as users of TorchSharp write it: modules, torch.optim.SGD, one dispose scope a step.
//
// A server: reads commands from standard input, one a line, and answers each with one line.
//   run PART N  does N batches of a part of the work and prints the seconds that they took
//   memory      prints the peak resident memory of this process in MiB
//   version     prints TorchSharp's and libtorch's versions and the number of threads
//   quit        ends
// The parts: step (all of it), teacher (its forward pass), student (forward, backward, optimiser), data (the batches).
// Options: --bf16 multiplies in bfloat16, --device NAME works on another device than the CPU. Float32 is float32 there too:
// TF32 stays off.
using System.Diagnostics;
using TorchSharp;
using TorchSharpStep;
using static TorchSharp.torch;

string device = args.SkipWhile(word => word != "--device").Skip(1).FirstOrDefault("cpu");

// Loads TorchSharp's native library on systems that are older than it asks for, and leaves all else as TorchSharp has it.
Environment.SetEnvironmentVariable("CTKD_TUNING", "none");
Ctkd.Engine.Natives.Load();

string? threads = Environment.GetEnvironmentVariable("OMP_NUM_THREADS");
set_num_threads(string.IsNullOrEmpty(threads) ? Environment.ProcessorCount : int.Parse(threads));
bool isCpu = device == "cpu";
if (!isCpu)
{
    backends.cuda.matmul.allow_tf32 = false;
    backends.cudnn.allow_tf32 = false;
}

var parts = new Work(args.Contains("--bf16"), torch.device(device)).Parts;

while (Console.ReadLine() is { } line && line != "quit")
{
    string[] words = line.Split(' ');
    Console.WriteLine(words[0] switch
    {
        "run" => Seconds(parts[words[1]], int.Parse(words[2])),
        "memory" => Peak(),
        "version" => $"TorchSharp {typeof(torch).Assembly.GetName().Version?.ToString(3)}, libtorch {torch.__version__}, {get_num_threads()} threads",
        _ => throw new NotSupportedException(line),
    });
}

string Seconds(Action part, int count)
{
    // A GPU works on behind the host's back.
    Wait();
    long start = Stopwatch.GetTimestamp();
    for (int i = 0; i < count; i++)
    {
        using var scope = NewDisposeScope();
        part();
    }

    Wait();
    return Stopwatch.GetElapsedTime(start).TotalSeconds.ToString("R");
}

void Wait()
{
    if (!isCpu)
        cuda.synchronize();
}

// Peak resident memory of this process in MiB.
static string Peak()
{
    string line = File.ReadLines("/proc/self/status").First(line => line.StartsWith("VmHWM:"));
    return (double.Parse(line.Split((char[])[' ', '\t'], StringSplitOptions.RemoveEmptyEntries)[1]) / 1024).ToString("R");
}
