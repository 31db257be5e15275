namespace Ctkd.Fs

open System

/// The key of a counter-based generator. Every number is a function of key and index: there is no state to advance or
/// to save, and all engines and devices get the same numbers.
type Rng = { Key: uint64 }

/// Random numbers from a key and an index.
[<RequireQualifiedAccess>]
module Rng =

    /// The mixing function of SplitMix64 (Steele, Lea and Flood 2014).
    let private mix (x: uint64) : uint64 =
        let z = x + 0x9E3779B97F4A7C15UL
        let z = (z ^^^ (z >>> 30)) * 0xBF58476D1CE4E5B9UL
        let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
        z ^^^ (z >>> 31)

    /// Creates the generator of a seed.
    let ofSeed (seed: int) : Rng = { Key = mix (uint64 seed) }

    /// Derives an independent generator for a purpose: "initialisation", "order", "augmentation" or a parameter's name.
    let split (purpose: string) (rng: Rng) : Rng =
        let absorb (hash: uint64) (c: char) = (hash ^^^ uint64 c) * 0x100000001B3UL
        { Key = mix (rng.Key ^^^ Seq.fold absorb 0xCBF29CE484222325UL purpose) }

    /// Derives an independent generator for a number, such as an epoch.
    let at (index: int) (rng: Rng) : Rng = { Key = mix (mix rng.Key + uint64 index) }

    /// Returns 64 random bits.
    let bits (index: int) (rng: Rng) : uint64 = mix (rng.Key + uint64 index)

    /// Returns a uniform number in [0, 1), with 53 bits.
    let uniform (index: int) (rng: Rng) : float = float (bits index rng >>> 11) * (1.0 / float (1L <<< 53))

    /// Returns a uniform integer in 0 .. count - 1.
    let below (count: int) (index: int) (rng: Rng) : int = int (Math.BigMul(bits index rng, uint64 count, ref 0UL))

    /// Returns `count` standard normal numbers (Box and Muller 1958).
    let normals (count: int) (rng: Rng) : float[] =
        Array.init
            count
            (fun i ->
                let radius = sqrt (-2.0 * log (1.0 - uniform (2 * (i / 2)) rng))
                let angle = 2.0 * Math.PI * uniform (2 * (i / 2) + 1) rng
                if i % 2 = 0 then radius * cos angle else radius * sin angle
            )

    /// Returns `count` uniform numbers in [-bound, bound).
    let uniforms (bound: float) (count: int) (rng: Rng) : float[] =
        Array.init count (fun i -> (2.0 * uniform i rng - 1.0) * bound)

    /// Returns a random permutation of 0 .. count - 1 (Fisher and Yates).
    let permutation (count: int) (rng: Rng) : int64[] =
        let order = Array.init count int64

        for i in count - 1 .. -1 .. 1 do
            let j = below (i + 1) i rng
            let swapped = order[i]
            order[i] <- order[j]
            order[j] <- swapped

        order
