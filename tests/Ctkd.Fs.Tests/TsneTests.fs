module Ctkd.Fs.Tests.TsneTests

open System
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

/// So many points of a dimension around each of the centres, all of standard deviation 1.
let private clusters (seed: int) (each: int) (dimension: int) (centres: float list) : float[][] =
    let noise = Rng.ofSeed seed |> Rng.normals (centres.Length * each * dimension)

    [|
        for c, centre in List.indexed centres do
            for i in 0 .. each - 1 ->
                Array.init
                    dimension
                    (fun k -> noise[(c * each + i) * dimension + k] + (if k = 0 then centre else 0.0))
    |]

let private points =
    gen {
        let! seed = Gen.choose (0, 1_000_000)
        let! count = Gen.choose (8, 40)
        let! dimension = Gen.choose (1, 6)
        let! perplexity = uniform 1.5 (float count / 2.0)
        return perplexity, clusters seed count dimension [ 0.0 ]
    }

[<Fact>]
let ``P is symmetric, without a diagonal, not negative, and sums to 1`` () =
    check
        points
        (fun (perplexity, points) ->
            let p = Tsne.joint perplexity points
            Expect.near 1e-12 0.0 1.0 (p |> Array.sumBy Array.sum)
            Assert.All(Array.concat p, fun value -> Assert.True(value >= 0.0))
            Assert.All([ 0 .. points.Length - 1 ], fun i -> Assert.Equal(0.0, p[i][i]))
            Expect.same (Array.concat p) (p |> Array.transpose |> Array.concat)
        )

[<Fact>]
let ``every point reaches the perplexity that is asked for`` () =
    check
        points
        (fun (perplexity, points) ->
            for row in Tsne.conditionals perplexity points do
                Expect.near 1e-12 0.0 1.0 (Array.sum row)
                let entropy = -(row |> Array.sumBy (fun p -> if p > 0.0 then p * log p else 0.0))
                Expect.near 1e-5 0.0 perplexity (exp entropy)
        )

/// The divergence at the start and at the end, of two clusters.
let private divergences (seed: int) : float * float =
    let points = clusters seed 20 5 [ 0.0; 8.0 ]
    let options = { Tsne.defaults with Perplexity = 8.0; Iterations = 400; Seed = seed }
    let p = Tsne.joint 8.0 points
    Tsne.divergence p (Tsne.start seed points.Length), Tsne.divergence p (Tsne.run options points)

[<Fact>]
let ``the divergence falls from the start to the end, and is never negative`` () =
    checkMany
        5
        (Gen.choose (0, 1000))
        (fun seed ->
            let before, after = divergences seed
            Assert.True(after >= -1e-12 && after < before, $"{before} to {after}")
        )

[<Fact>]
let ``the divergence of two clusters is more than halved`` () =
    // From some starts clusters cross and stay entangled: how far it falls is a matter of the seed.
    for seed in 1..3 do
        let before, after = divergences seed
        Assert.True(after < 0.5 * before, $"{before} to {after}")

[<Fact>]
let ``clusters that are apart stay apart`` () =
    checkMany
        3
        (Gen.choose (0, 1000))
        (fun seed ->
            let each = 25
            let points = clusters seed each 4 [ 0.0; 40.0; 80.0 ]
            let places = Tsne.run { Tsne.defaults with Perplexity = 8.0; Seed = seed } points

            let distance i j =
                let struct (x, y), struct (u, v) = places[i], places[j]
                sqrt ((x - u) * (x - u) + (y - v) * (y - v))

            let others i = [ 0 .. places.Length - 1 ] |> List.filter ((<>) i)

            for i in 0 .. places.Length - 1 do
                Assert.Equal(i / each, (others i |> List.minBy (distance i)) / each)

            let group c = [ c * each .. (c + 1) * each - 1 ]
            let pairs = List.allPairs (group 0) (group 1)

            let within =
                List.allPairs (group 0) (group 0) |> List.map (fun (i, j) -> distance i j) |> List.max

            let nearest = pairs |> List.map (fun (i, j) -> distance i j) |> List.min
            Assert.True(nearest > 0.5 * within, $"{nearest} between, {within} within")
        )

[<Fact>]
let ``a picture is a function of points and options, centred at the origin`` () =
    let points = clusters 1 10 3 [ 0.0; 5.0 ]
    let options = { Tsne.defaults with Perplexity = 5.0; Iterations = 60 }
    let places = Tsne.run options points
    Assert.Equal<struct (float * float)[]>(places, Tsne.run options points)
    Assert.NotEqual<struct (float * float)[]>(places, Tsne.run { options with Seed = 2 } points)
    Expect.near 0.0 1e-9 0.0 (places |> Array.averageBy (fun struct (x, _) -> x))
    Expect.near 0.0 1e-9 0.0 (places |> Array.averageBy (fun struct (_, y) -> y))

[<Fact>]
let ``points that all are one give finite places`` () =
    let places =
        Tsne.run { Tsne.defaults with Perplexity = 3.0; Iterations = 50 } (Array.create 8 [| 1.0; 2.0 |])

    Assert.All(places, fun (struct (x, y)) -> Assert.True(Double.IsFinite x && Double.IsFinite y))

[<Fact>]
let ``wrong points and options are refused by name`` () =
    let points = clusters 1 10 3 [ 0.0 ]
    Expect.refuses "points" (fun () -> Tsne.run Tsne.defaults (Array.truncate 2 points))
    Expect.refuses "perplexity" (fun () -> Tsne.run Tsne.defaults points)
    Expect.refuses "perplexity" (fun () -> Tsne.joint 1.0 points)
    Expect.refuses "options" (fun () -> Tsne.run { Tsne.defaults with Iterations = 0 } points)
    points[3][0] <- nan
    Expect.refuses "points" (fun () -> Tsne.joint 3.0 points)
