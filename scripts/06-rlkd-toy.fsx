// Whether RLKD's agent learns where learning is possible. Run with: dotnet fsi scripts/06-rlkd-toy.fsx [SEEDS [UPDATES]]
//
// An instance's best temperature is 2 + 6 u, u its uncertainty; the reward is the mean of -(T - 2 - 6 u)^2, which is -3 for
// the best constant T. The agent of the paper is told the batch's reward, or each instance's own; that of the
// released code is told the batch's. The last tenth of the updates is judged, by the temperatures as drawn.
#load "_load.fsx"
#load "../tests/Ctkd.Fs.Tests/Temperature/Rlkd/Support/Toy.fs"

open Ctkd.Fs
open Ctkd.Fs.Tests

let argument index fallback =
    fsi.CommandLineArgs |> Array.tryItem index |> Option.map int |> Option.defaultValue fallback

let seeds, updates = argument 1 5, argument 2 1000

for title, config, feedback in
    [
        "paper, reward of each instance", RlkdConfig.paper, Toy.OfInstances
        "paper, reward of the batch", RlkdConfig.paper, Toy.OfBatch
        "official, reward of the batch", RlkdConfig.official, Toy.OfBatch
    ] do
    printfn $"{title}, {updates} updates"

    for seed in 1..seeds do
        let watch = System.Diagnostics.Stopwatch.StartNew()
        let parts = Toy.run config feedback seed updates 10
        let first, last = List.head parts, List.last parts

        printfn
            $"  seed {seed}: correlation %.2f{first.Correlation} -> %.2f{last.Correlation}, mean reward %.2f{first.Reward} -> %.2f{last.Reward}, %.1f{watch.Elapsed.TotalSeconds} s"
